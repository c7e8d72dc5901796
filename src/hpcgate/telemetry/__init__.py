"""What the gateway tells of its own work: metrics for Prometheus, traces for OpenTelemetry."""
