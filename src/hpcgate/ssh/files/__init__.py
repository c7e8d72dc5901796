"""Files on a login node: one protocol, by SFTP and by plain commands."""
