"""The parts of the stack: resources that Pulumi sees, over two libraries (`vast`, `vllm`) that know no Pulumi."""
