"""Makes generated images whose origin is known: from captions of photographs, or from the photographs themselves.

From captions (`study.py`): a photograph and its fake carry the same caption, from the same source: the text that a person wrote on seeing
the photograph is the prompt of its fake. So every caption stands once in each class, and a detector that sees captions only is right half
of the time. What is left to see is how well an image fits its caption, which is a trait of the generator and not of the bookkeeping. Two
things do differ by class: format and size (photographs stay the files that they are, fakes are PNG). Look at these first.

From photographs (`matched.py`): a real image and its fakes show the same and went through the same chain, so format and size do not differ.
"""
