"""A perl that stands for the login node's own, and is killed before any of its steps; see `tests.ssh.stepping`."""

import shutil
from pathlib import Path

_MODULE = r"""
package Steps;
use POSIX ();
sub step {
  CORE::open my $calls, ">>", "$ENV{STEPS}/calls" or die;
  syswrite $calls, "\n";
  if (-s $calls == ($ENV{AT} || 0)) {
    my $whom = $ENV{WHOM} || "";
    kill 9, $ENV{MAIN} if $whom eq "main";
    kill 9, -getpgrp if $whom eq "group";
    kill 9, $$ if $whom eq "one";
  }
}
BEGIN {
  *CORE::GLOBAL::link = sub { step(); CORE::link($_[0], $_[1]) };
  *CORE::GLOBAL::mkdir = sub { step(); CORE::mkdir($_[0], $_[1]) };
  *CORE::GLOBAL::unlink = sub { step(); CORE::unlink(@_) };
  *CORE::GLOBAL::fork = sub () { step(); CORE::fork() };
  *CORE::GLOBAL::waitpid = sub { step(); CORE::waitpid($_[0], $_[1]) };
  no strict "refs";
  no warnings "redefine";
  for my $name (qw(open write close dup2 setsid)) {
    my $was = \&{"POSIX::$name"};
    *{"POSIX::$name"} = sub { step(); $was->(@_) };
  }
}
1;
"""


def stepping_perl(directory: Path) -> str:
    """Return the text of a program that runs perl so that each of its steps counts."""
    (directory / "Steps.pm").write_text(_MODULE)
    return f'#!/bin/dash\nexec {shutil.which("perl")} -I{directory} -MSteps "$@"\n'


NO_PERL = "#!/bin/dash\nexit 77\n"
"""One that lacks its modules, as where there is none."""
