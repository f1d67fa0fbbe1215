"""Texts that a teacher writes, labelled while it writes them.

decode.py        many texts side by side, token by token; a text that ends makes room for the next
drawing.py       the next token: temperature and top-p by position, draws that are hashes
beginnings.py    prompts and the shares of the first token
labelling.py     the labels of what is written, from the logits it was drawn from
filters.py       what is left out: short, looping, unlikely, and (duplicates.py) written before
"""
