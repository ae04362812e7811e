"""What Prometheus and Grafana need to watch a fleet, as functions of its outputs. Knows no Pulumi."""
