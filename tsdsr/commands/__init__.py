"""`tsdsr upscale | demo | export | doctor | score | weights`: one module per command, with `add_arguments` and `run`.

`main` selects the module and reports a `UserError` in one line with exit status 2. Code beyond options and output
belongs in the rest of the library.
"""
