"""
Experiments on generated faces: what pre-training learns, what it is good for, what each effect of the pictures is
worth; and the contact sheets that show them.
"""
