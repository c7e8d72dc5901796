"""The settings, frozen, and how they are read from a FirecREST v2 compatible YAML file."""

from hpcgate.config.loading import load
from hpcgate.config.mistakes import ConfigError, Mistake
from hpcgate.config.models import (
    AuthSettings,
    Cluster,
    CredentialSettings,
    DataOperation,
    FileSystem,
    LoggerSettings,
    MaintenanceWindow,
    MetricsSettings,
    Model,
    OidcSettings,
    OpenFgaSettings,
    PluginSettings,
    ProbingSettings,
    SchedulerSettings,
    ServiceAccount,
    Settings,
    SshSettings,
    SshTimeouts,
    StreamSettings,
    TracingSettings,
    TransferSettings,
)
from hpcgate.config.plugins import plugin, plugins
from hpcgate.config.secrets import Secret

__all__ = [
    "AuthSettings",
    "Cluster",
    "ConfigError",
    "CredentialSettings",
    "DataOperation",
    "FileSystem",
    "LoggerSettings",
    "MaintenanceWindow",
    "MetricsSettings",
    "Mistake",
    "Model",
    "OidcSettings",
    "OpenFgaSettings",
    "PluginSettings",
    "ProbingSettings",
    "SchedulerSettings",
    "Secret",
    "ServiceAccount",
    "Settings",
    "SshSettings",
    "SshTimeouts",
    "StreamSettings",
    "TracingSettings",
    "TransferSettings",
    "load",
    "plugin",
    "plugins",
]
