"""A job from the body that names it to the scheduler that takes it: what one submission does, and each of many."""

from types import MappingProxyType

from hpcgate.api import dependencies
from hpcgate.api.access import Access
from hpcgate.api.grants import admit_job
from hpcgate.api.models.job_spec import ExtraModel, JobSpecModel, MailModel, ResourcesModel
from hpcgate.api.models.jobs import DryRunResponse, JobDescriptionModel, PolicyVerdict
from hpcgate.errors import BadRequest, Denied, NotSupported
from hpcgate.schedulers.base import JobDescription
from hpcgate.schedulers.dry_run import DryRun
from hpcgate.schedulers.job_spec import JobAttributes, Mail, Program, Resources
from hpcgate.schedulers.once import Submitted
from hpcgate.schedulers.receipts import Once
from hpcgate.schedulers.rendering import with_script
from hpcgate.ssh.files.remote_path import RemotePath, encode_link


async def submit(access: Access, asked: JobDescriptionModel, once: Once | None) -> Submitted:
    """Submit one job, once if there is a key for it.

    Raises:
        GatewayError: Nothing was submitted, or as `Scheduler.submit` and `Scheduler.submit_once` say.
    """
    job = await admitted(access, description(asked))
    await dependencies.check(access, job.attributes.dependencies, once)
    scheduler = access.system.scheduler
    if once is None:
        return await scheduler.submit_and_tell(access.principal, job)
    return await scheduler.submit_once(access.principal, job, once)


async def dry_run(access: Access, asked: JobDescriptionModel) -> DryRunResponse:
    """Return what a submission would be and what the policy says of it; nothing is submitted.

    Raises:
        GatewayError: The job would be refused, as `submit` would.
    """
    job = complete(access, description(asked))
    await dependencies.check(access, job.attributes.dependencies)
    try:
        job = await admit_job(access, job)
    except Denied as denial:
        policy = PolicyVerdict(allowed=False, rule=denial.rule, reason=denial.message)
        found = DryRun(job.script)
    else:
        policy = PolicyVerdict(allowed=True, rule=access.grant.rule or None)
        found = await access.system.scheduler.dry_run(access.principal, job)
    return DryRunResponse(
        script=found.script,
        options=list(found.options),
        tested=found.tested,
        start=found.start,
        nodes=found.nodes,
        partition=found.partition,
        processors=found.processors,
        warnings=list(found.warnings),
        policy=policy,
    )


async def admitted(access: Access, job: JobDescription) -> JobDescription:
    """Return a job as it may be submitted: with its script, and with all that it names checked.

    Raises:
        BadRequest: It names something outside of the file systems, or a launcher that there is not.
        NotSupported: It has fields that this scheduler knows nothing of.
        Denied: The policy's rule allows other paths only.
    """
    return await admit_job(access, complete(access, job))


def complete(access: Access, job: JobDescription) -> JobDescription:
    """Return a job with the script of its program, once it is seen that the scheduler knows all that it has.

    Raises:
        BadRequest: It names something outside of the file systems, or a launcher that there is not.
        NotSupported: It has fields that this scheduler knows nothing of.
    """
    scheduler = access.system.scheduler
    for field in sorted(job.attributes.asked().keys() - scheduler.fields()):
        raise NotSupported(f"{field} is not supported by this scheduler")
    # What is sourced beside a program is often the system's own, such as /etc/profile.d.
    for path in (job.working_directory, job.script_path):
        if path is not None:
            access.system.admit(path)
    return with_script(job, scheduler.launchers())


def environment(env: dict[str, str] | list[str]) -> dict[str, str]:
    """Return the environment of a job as a mapping, from an object or from a list of ``NAME=value``.

    Raises:
        BadRequest: An item of the list has no equals sign.
    """
    if isinstance(env, dict):
        return env
    pairs = {}
    for item in env:
        name, equals, value = item.partition("=")
        if not equals:
            raise BadRequest(f"env: {item!r} is not of the form NAME=value")
        pairs[name] = value
    return pairs


def description(job: JobDescriptionModel) -> JobDescription:
    """Return what the scheduler is to submit; the script of a program is not written yet.

    Raises:
        BadRequest: Not exactly one of script, scriptPath and executable, or fields that contradict each other.
    """
    if [job.script is None, job.script_path is None, job.executable is None].count(False) != 1:
        raise BadRequest("Exactly one of script, scriptPath and executable is required.")
    if job.queue_name is not None and job.partition not in (None, "", job.queue_name):
        raise BadRequest(f"queueName: it is {job.queue_name!r}, and partition, which is the same, is {job.partition!r}")
    variables = environment(job.env)
    asked_for = "env" in job.model_fields_set
    return JobDescription(
        working_directory=_path(job.working_directory),
        script=job.script,
        script_path=None if job.script_path is None else _path(job.script_path),
        name=job.name,
        account=job.account,
        reservation=job.reservation,
        partition=job.queue_name or job.partition,
        constraints=job.constraints,
        standard_input=job.standard_input,
        standard_output=job.standard_output,
        standard_error=job.standard_error,
        environment=variables if asked_for else {},
        default_environment={} if asked_for else variables,
        program=_program(job),
        attributes=_attributes(job),
    )


def _path(path: str) -> RemotePath:
    """Return a path of a job as bytes. The scheduler says what it thinks of one that is relative or empty."""
    return RemotePath(encode_link(path) if path else b"")


def _program(job: JobSpecModel) -> Program | None:
    if job.executable is not None:
        return Program(job.executable, tuple(job.arguments or ()), job.launcher, job.pre_launch, job.post_launch)
    for field, value in (
        ("arguments", job.arguments),
        ("launcher", job.launcher),
        ("preLaunch", job.pre_launch),
        ("postLaunch", job.post_launch),
    ):
        if value is not None:
            raise BadRequest(f"{field}: it belongs to executable, and the job has a script of its own")
    return None


def _attributes(job: JobSpecModel) -> JobAttributes:
    return JobAttributes(
        resources=_resources(job.resources or ResourcesModel()),
        duration=job.duration,
        qos=job.qos,
        array=job.array,
        dependencies=dependencies.dependencies(job.dependencies),
        hold=bool(job.hold),
        begin=job.begin,
        requeue=job.requeue,
        mail=_mail(job.mail),
        extra=_extra(job.extra or ExtraModel()),
    )


def _resources(asked: ResourcesModel) -> Resources:
    return Resources(
        node_count=asked.node_count,
        process_count=asked.process_count,
        processes_per_node=asked.processes_per_node,
        cpu_cores_per_process=asked.cpu_cores_per_process,
        gpu_cores_per_process=asked.gpu_cores_per_process,
        memory=asked.memory,
        exclusive_node_use=bool(asked.exclusive_node_use),
    )


def _mail(asked: MailModel | None) -> Mail:
    return Mail() if asked is None else Mail(tuple(dict.fromkeys(asked.events)), asked.address)


def _extra(asked: ExtraModel) -> MappingProxyType[str, dict[str, str | int]]:
    return MappingProxyType({"slurm": dict(asked.slurm), "pbs": dict(asked.pbs)})
