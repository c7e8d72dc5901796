"""The keeper: one perl that keeps the receipts of many submissions, where the login node has perl.

It takes the place of the shell (`hpcgate.schedulers.receipts`) for most of a bulk: keys that have no receipt yet. It
does the same steps in the same order by system calls, where a shell needs a process for link(1) and one for
setsid(1), and reads files byte by byte. What is not as simple as that it leaves to the shell: a receipt that is there
already, one that cannot be made, an attempt that somebody else has won. It may be killed at any instant, like the
shell: then the shell does all of them, and the receipts say what has been begun.

Its input is the program that the shell runs, from the line behind which the commands stand.
"""

from dataclasses import dataclass
from typing import Final

from hpcgate.schedulers.many import TOGETHER

UNABLE: Final = 77
"""Exit status of a perl that lacks its own modules, and has done nothing."""

DEAF: Final = 78
"""Exit status if nobody reads any more."""

SOME_LEFT: Final = 79
"""Exit status if the shell has to see to some, of which the numbers are in the file ``rest``."""


@dataclass(frozen=True, slots=True)
class Direct:
    """How the keeper runs a backend's function of shell itself.

    Attributes:
        perl: Entries of ``%how``: subroutines that take the function's words and become the command.
        given: Variables of the shell, without ``_hpcgate_``, that they need, as ``%given``.
        unless: A test of shell that is true where the function has to be run by the shell.
    """

    perl: str = ""
    given: tuple[str, ...] = ()
    unless: str = "false"


_OPENING: Final = """
use strict;
# Without what their modules have in perl: each fork copies the less.
eval {
  require XSLoader;
  defined &POSIX::setsid or XSLoader::load("POSIX");
  defined &Fcntl::O_CREAT or XSLoader::load("Fcntl");
  POSIX::EINTR() and POSIX::ENOENT() and Fcntl::O_NOFOLLOW();
} or exit UNABLE;
my ($offset, $place, $word, $most, $room, $machine, @own) = @ARGV;
my (%given, %how, %running, @shared, @rest);
for (grep /^_hpcgate_/, keys %ENV) { $given{substr $_, 9} = delete $ENV{$_} }
for (@own) { my ($name, $value) = split /=/, $_, 2; $ENV{$name} = $value }
my $umask = umask 077;
my ($main, $told, $count, $since, $deaf) = ($$, "", 0, time, 0);
"""

_OWN: Final = r"""
my ($new, $append) = (Fcntl::O_WRONLY() | Fcntl::O_CREAT() | Fcntl::O_EXCL(), Fcntl::O_APPEND());
my $plain = Fcntl::O_RDONLY() | Fcntl::O_NOFOLLOW();
# What becomes the scheduler's command is deaf to these, too. What has begun comes to its end though nobody reads any
# more, and no more is begun.
$SIG{$_} = "IGNORE" for qw(HUP INT TERM PIPE);
$SIG{USR1} = sub { report() if $$ == $main; POSIX::_exit(1) };
sub report {
  while (length $told and not $deaf) {
    my $n = POSIX::write(1, $told, length $told);
    if (defined $n) { substr($told, 0, $n) = "" } elsif ($! != POSIX::EINTR()) { $deaf = 1 }
  }
  ($told, $count, $since) = ("", 0, time);
}
sub content {
  my ($path) = @_;
  my $file = POSIX::open($path, $plain);
  return unless defined $file;
  my ($text, $more) = ("", "");
  $text .= $more while POSIX::read($file, $more, 4096) > 0;
  POSIX::close($file);
  return $text;
}
sub written {
  my ($path, $text) = @_;
  my $file = POSIX::open($path, $new, 0600);
  return unless defined $file;
  my $n = POSIX::write($file, $text, length $text);
  return POSIX::close($file) && defined $n && $n == length $text;
}
sub attempt {
  my ($job) = @_;
  my $at = "$job->{name}/1";
  my $in = POSIX::open($job->{input}, Fcntl::O_RDONLY());
  POSIX::_exit(96) unless defined $in;
  my $line = content("/proc/self/stat");
  $line = "" unless defined $line;
  my $start = (split " ", substr $line, 1 + rindex $line, ")")[19];
  my $claim = "$job->{token} $job->{claim} " . time . " $machine $$ " . (defined $start ? $start : "") . "\n";
  my $draft = "$at.new.$job->{token}";
  written($draft, $claim) or do { unlink $draft; POSIX::_exit(96) };
  # On NFS a success that is told twice looks like an error.
  link $draft, $at;
  my $back = content($at);
  unlink $draft;
  POSIX::_exit(98) unless defined $back and $back eq $claim;
  my $out = POSIX::open("$at.out", $new | $append, 0600);
  POSIX::_exit(97) unless defined $out;
  POSIX::dup2($in, 0);
  POSIX::dup2($out, 1);
  POSIX::dup2($out, 2);
  POSIX::close($_) for grep $_ > 2, $in, $out;
  POSIX::setsid();
  umask $umask;
  my ($name, @words) = @{$job->{argv}};
  if (my $sub = $how{$name}) { $sub->(@words) } else { become($name, @words) }
}
sub note { my ($text) = @_; POSIX::write(1, "$text\n", 1 + length $text) }
sub said { my ($text, $status) = @_; note($text); POSIX::_exit($status) }
sub become {
  exec { $_[0] } @_;
  said("$_[0]: $!", $! == POSIX::ENOENT() ? 127 : 126);
}
sub ended {
  my ($pid, $status) = @_;
  my $job = delete $running{$pid} or return;
  my ($n, $at) = ($job->{n}, "$job->{name}/1");
  my $code = $status & 127 ? 128 + ($status & 127) : $status >> 8;
  my $line = content($at);
  if (not defined $line or index($line, "$job->{token} ") != 0 or not written("$at.end", "$code\n")) {
    push @rest, $n;
    return;
  }
  $told .= "$word out $n\n";
  my $out = POSIX::open("$at.out", $plain);
  $told .= "$job->{header} failed\n$at.out: cannot be made\n" unless defined $out;
  $told .= "$job->{header} ended\n1\n" . time . "\n$line$code\n\n\n";
  if (defined $out) {
    my $more = "";
    while (POSIX::read($out, $more, 65536) > 0) { $told .= $more; report() if length $told > 262144 }
    POSIX::close($out);
  }
  $told .= "\n$word end $n $code\n";
  $count++;
  report() if $count >= TOGETHER;
}
sub await {
  my $pid = waitpid -1, 0;
  ended($pid, $?) if $pid > 0;
  %running = () if $pid < 0 and $! != POSIX::EINTR();
}
open my $program, "<", "$place/program" or exit UNABLE;
seek $program, $offset, 0 or exit UNABLE;
sub words {
  # The words of the next command, as the gateway has quoted them; none behind the last.
  my $line = <$program>;
  my @words;
  while (defined $line and $line !~ /\G\n/gc) {
    my $one = "";
    while (1) {
      if ($line =~ /\G([^ \n'"]+)/gc) { $one .= $1 }
      elsif ($line =~ /\G'([^']*)'/gc) { $one .= $1 }
      elsif ($line =~ /\G"'"/gc) { $one .= "'" }
      elsif ($line =~ /\G"\$_hpcgate_s([0-9]+)"/gc) { $one .= $shared[$1] }
      elsif ($line =~ /\G'/gc) {
        # It goes on in the next line.
        $one .= substr $line, pos $line;
        while (1) {
          $line = <$program>;
          return unless defined $line;
          if ($line =~ /\G([^']*)'/gc) { $one .= $1; last }
          $one .= $line;
        }
      }
      else { last }
    }
    push @words, $one;
    $line =~ /\G /gc or $line =~ /\G(?=\n)/gc or return;
  }
  return @words;
}
sub begun {
  my ($n, $input, $header, $name, $token, $claim, @argv) = @_;
  $room > 0 and mkdir $name, 0700 or return;
  $room--;
  await() while keys %running >= $most;
  $told .= "$word begin $n\n";
  report() if time > $since;
  my $job = {
    n => $n, input => "$place/b$input", header => $header, name => $name, token => $token, claim => $claim,
    argv => \@argv,
  };
  my $pid = fork;
  return unless defined $pid;
  if ($pid == 0) { attempt($job); POSIX::_exit(127) }
  $running{$pid} = $job;
  return 1;
}
<$program>;
my $n = 0;
until ($deaf) {
  my ($name, @words) = words();
  last unless defined $name;
  if ($name =~ /^_hpcgate_s([0-9]+)=(.*)/s) { $shared[$1] = $2; next }
  $n++;
  push @rest, $n unless $name eq "_hpcgate_once" and begun($n, @words);
}
await() while keys %running;
report();
exit DEAF if $deaf;
exit 0 unless @rest;
exit(written("$place/rest", " @rest \n") ? SOME_LEFT : 1);
"""


def script(direct: Direct) -> str:
    """Return the perl of a keeper."""
    text = _OPENING + direct.perl + _OWN
    for name, value in (("UNABLE", UNABLE), ("SOME_LEFT", SOME_LEFT), ("DEAF", DEAF), ("TOGETHER", TOGETHER)):
        text = text.replace(name, str(value))
    return "\n".join(line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#"))
