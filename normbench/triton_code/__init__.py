"""What is written in Triton, and the process that compiles it beside one that trains; nothing here needs torch.

`normbench.kernels` launches these kernels, and says which tensors they take. `compiler` starts `compile_server`, which
imports every file of kernels, so that none may import torch: that would take the second which is to be saved.
"""
