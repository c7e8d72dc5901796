"""Whether the systems are well: probes of their services, and maintenance."""
