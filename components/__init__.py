"""The parts of the stack: Pulumi resources, the guard, and libraries without Pulumi: vast, vllm, caddy."""
