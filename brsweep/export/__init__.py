"""A finished run's network outside of training: loaded and used, or written in forms that others read.

    load.py         a run's folder -> the network in evaluation mode, with what it takes and what its outputs mean
    pictures.py     images as people have them -> what the network takes
    levels.py       the trained integers: each site's codes and step sizes
    plain.py        the network in plain torch, or with a mark at each site
    program.py      its exported program: what translations and tables walk over
    costs.py        bytes, multiplications and bit operations, layer by layer
    codes.py        packed integers in safetensors, their meaning in JSON
    qdq.py          the network as ONNX: integers between QuantizeLinear and DequantizeLinear
    staircase.py    a batch norm folded into integers, so that no code changes
    operators.py    torch's operators as ONNX's
    check.py        whether what was exported is the trained network, code by code
    write.py        a network's files in one folder, all of them or none
    extra.py        what the extra `export` installs
"""
