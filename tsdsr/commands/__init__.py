"""`tsdsr upscale | demo | export | doctor | score | weights`: one module a command, with `add_arguments` and `run`.

`main` chooses the module and turns a `UserError` into one line and exit status 2. What a command does beyond reading
options and telling people about it belongs in the library.
"""
