"""The parts of the stack: resources that Pulumi sees, the guard, and libraries without Pulumi: vast, vllm, caddy."""
