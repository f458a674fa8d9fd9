"""vLLM as an engine: it answers in a process of its own, with our noise, so that it draws our samples.

`worker` is that process, `drawing` its logits processor; on this side `process` starts it and talks to it,
`engine` is the model as everybody uses it, `agreement` compares its first answers with a plain forward pass.

A process of its own, because vLLM pins other versions (of transformers, of torch) than the ones kdbench is
tested with, keeps process groups, threads and GPU memory to itself, and can fail without taking a training
along. Only lines of JSON and safetensors files pass between the two: nothing that is run when it is read.
"""
