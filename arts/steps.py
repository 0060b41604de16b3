def split_steps(text, *, max_chars=2000):
    import re

    return [x for x in re.split(r"(?<=\n\n)(?!\n)", text) if x]
