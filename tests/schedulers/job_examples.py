"""A job for each field, which asks for it and for as little else as can be."""

from hpcgate.schedulers.job_spec import Dependency, JobAttributes, Mail, Resources

EXAMPLES = {
    "resources.nodeCount": JobAttributes(resources=Resources(node_count=2)),
    "resources.processCount": JobAttributes(resources=Resources(process_count=4)),
    "resources.processesPerNode": JobAttributes(resources=Resources(processes_per_node=2)),
    "resources.cpuCoresPerProcess": JobAttributes(resources=Resources(cpu_cores_per_process=2)),
    "resources.gpuCoresPerProcess": JobAttributes(resources=Resources(gpu_cores_per_process=1)),
    "resources.memory": JobAttributes(resources=Resources(memory=1024**3)),
    "resources.exclusiveNodeUse": JobAttributes(resources=Resources(exclusive_node_use=True)),
    "duration": JobAttributes(duration=5400),
    "qos": JobAttributes(qos="high"),
    "array": JobAttributes(array="0-9%2"),
    "dependencies": JobAttributes(dependencies=(Dependency("afterok", ("12",)),)),
    "hold": JobAttributes(hold=True),
    "begin": JobAttributes(begin=1798131600),
    "requeue": JobAttributes(requeue=False),
    "mail.events": JobAttributes(mail=Mail(("end",))),
    "mail.address": JobAttributes(mail=Mail((), "alice@example.org")),
    "extra.slurm": JobAttributes(extra={"slurm": {"nice": 10}}),
    "extra.pbs": JobAttributes(extra={"pbs": {"W": "umask=022"}}),
}
