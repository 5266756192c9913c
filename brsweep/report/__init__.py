"""Run folders -> tables, figures and one HTML page: `python -m brsweep.report runs/<sweep>`. Needs no torch.

runs.py       folders -> runs as plain, checked data, with what could not be read
rows.py       runs -> cohorts (one core of code, one data set) -> rows (one configuration over its seeds)
spread.py     mean, standard deviation, paired differences, Holm's correction
results.py    rows -> what the table says, with the lambda that validation picks
seeds.py      what a launcher that looked after every seed saw, and the rule that ended each row
published.py  figures of papers for the same net and bits
table.py      results -> CSV, Markdown, LaTeX
frames.py     runs -> a line for each run and for each epoch: CSV, pandas
figures/      results -> figures as plain data; one renderer here (PNG, PDF), one in the page
page.py       all of it -> index.html
answer.py     what a sweep comes to, in a line or a few, where its command ends
compare.py    two runs side by side
"""
