"""Texts: prompt lists and other people's layouts of them, concepts, wording without a concept, templates, tokens.

May import `stage` and what is below it; imports torch in functions only, where a tokenizer or an encoder is at work.
"""
