"""One HTML file that shows reasoning trees of any source: made here, drawn by the script that it carries."""
