"""How good is the choice? Every selector at every k, Gap Closed, subsets, intervals and bills; terminal and page."""
