"""The shell that keeps the receipts of `hpcgate.schedulers.receipts` on a login node.

It starts no process where the shell can do a thing itself: many receipts may be made by one script.
"""

from typing import Final

from hpcgate.schedulers import keeper
from hpcgate.ssh.commands.quoting import KEEPING_FUNCTIONS

LEASE: Final = 900
"""Seconds after which a command on another machine is taken to have ended; sbatch tries for a few minutes."""

SWEEP_EVERY: Final = 600
"""Seconds between two sweeps of a directory."""

_TOOLS = "cat cd chmod date dd find kill ln ls mkdir mv printf read readlink rm rmdir set setsid sh test [ uname umask"
_BEGIN = f"{KEEPING_FUNCTIONS}{_TOOLS}; set +aefmuC; "

_FUNCTIONS = """
_hpcgate_say() { printf '%s %s\\n%s\\n' "$_hpcgate_header" "$1" "$2"; }
_hpcgate_refuse() { _hpcgate_refused=${1:-"nobody says why"}; return 1; }
_hpcgate_enter() {
  # $1 directory, $2 whether it is made; what stands against it is in _hpcgate_refused, nothing if it is not there
  _hpcgate_directory=$1 _hpcgate_refused=
  case $_hpcgate_directory in '~'/*) _hpcgate_directory=$HOME/${_hpcgate_directory#??} ;; esac
  case $_hpcgate_directory in /*) ;; *) _hpcgate_refuse "HOME is not set"; return ;; esac
  if [ ! -d "$_hpcgate_directory" ] && [ ! -h "$_hpcgate_directory" ]; then
    [ -n "$2" ] || return
    _hpcgate_said=$(umask 077; mkdir -p -- "$_hpcgate_directory" 2>&1)
    [ -d "$_hpcgate_directory" ] || { _hpcgate_refuse "$_hpcgate_said"; return; }
  fi
  [ ! -h "$_hpcgate_directory" ] || { _hpcgate_refuse "$_hpcgate_directory: is a link"; return; }
  _hpcgate_said=$(cd -- "$_hpcgate_directory" 2>&1) || { _hpcgate_refuse "$_hpcgate_said"; return; }
  cd -- "$_hpcgate_directory" || { _hpcgate_refuse "$_hpcgate_directory: cannot be entered"; return; }
  [ -O . ] || { _hpcgate_refuse "$_hpcgate_directory: belongs to somebody else"; return; }
  case $(ls -ld .) in
    drwx------*) ;;
    *) for _hpcgate_file in * .[!.]* ..?*; do
         case $_hpcgate_file in '*' | '.[!.]*' | '..?*' | .nfs* | swept* | $OURS | $OURS.memo.*) ;;
           *) _hpcgate_refuse "$_hpcgate_directory: is not private, and holds other things than receipts"; return ;;
         esac
       done
       _hpcgate_said=$(chmod 700 . 2>&1) || { _hpcgate_refuse "$_hpcgate_said"; return; }
       case $(ls -ld .) in
         drwx------*) ;;
         *) _hpcgate_refuse "$_hpcgate_directory: cannot be made private"; return ;;
       esac ;;
  esac
  _hpcgate_umask=$(umask)
  _hpcgate_now=$(date +%s)
  _hpcgate_uptime
  _hpcgate_entered=$((_hpcgate_now - _hpcgate_up))
  { read -r _hpcgate_boot </proc/sys/kernel/random/boot_id; } 2>/dev/null || _hpcgate_boot=-
  _hpcgate_space=$(readlink /proc/self/ns/pid 2>/dev/null)
  _hpcgate_space=${_hpcgate_space#*[}
  _hpcgate_machine=$(uname -n)/$_hpcgate_boot/${_hpcgate_space%]}
  _hpcgate_apart=$(command -v setsid)
}
_hpcgate_uptime() {
  { read -r _hpcgate_up _hpcgate_rest </proc/uptime; } 2>/dev/null
  _hpcgate_up=${_hpcgate_up%%.*}
  case $_hpcgate_up in '' | *[!0-9]*) _hpcgate_up=0 ;; esac
}
_hpcgate_tick() {
  # What the time is, once it has been read.
  _hpcgate_uptime
  if [ "$_hpcgate_up" -eq 0 ]; then _hpcgate_now=$(date +%s); else _hpcgate_now=$((_hpcgate_entered + _hpcgate_up)); fi
}
_hpcgate_real() {
  # Whether a receipt may be gone to.
  [ ! -h "$1" ] || { _hpcgate_refuse "$_hpcgate_directory/$1: is a link"; return; }
  # Made by somebody else before the directory was private, it may be open in one of their programs.
  [ ! -e "$1" ] || [ -O "$1" ] || { _hpcgate_refuse "$_hpcgate_directory/$1: belongs to somebody else"; return; }
}
# What has such a name already was put there by somebody else, and could lead elsewhere.
_hpcgate_write() {
  set -C
  { printf '%s\\n' "$2" >"$1"; } 2>/dev/null
  set +C
  _hpcgate_back=
  _hpcgate_plain "$1" && { IFS= read -r _hpcgate_back <"$1"; } 2>/dev/null && [ "$_hpcgate_back" = "$2" ]
}
_hpcgate_plain() { [ -f "$1" ] && [ ! -h "$1" ]; }
_hpcgate_latest() {
  _hpcgate_number=0
  for _hpcgate_file in "$1"/*; do
    _hpcgate_file=${_hpcgate_file##*/}
    case $_hpcgate_file in *[!0-9]*) continue ;; esac
    if [ "$_hpcgate_file" -gt "$_hpcgate_number" ]; then _hpcgate_number=$_hpcgate_file; fi
  done
}
_hpcgate_holder() {
  _hpcgate_held=
  _hpcgate_plain "$1" && { read -r _hpcgate_held _hpcgate_rest <"$1"; } 2>/dev/null
}
_hpcgate_runs() {
  # token mark digest since machine pid start
  case $4$6$7 in '' | *[!0-9]*) return 1 ;; esac
  if [ "$5" != "$_hpcgate_machine" ]; then
    [ $((_hpcgate_now - $4)) -lt "$LEASE" ]
    return
  fi
  if { read -r _hpcgate_line </proc/"$6"/stat; } 2>/dev/null; then
    _hpcgate_start=$7 _hpcgate_since=$4
    set -- ${_hpcgate_line##*) }
    # One that nobody has taken leave of yet may have children that go on.
    case $1 in Z | X) [ $((_hpcgate_now - _hpcgate_since)) -lt "$LEASE" ]; return ;; esac
    shift 19
    [ "$1" = "$_hpcgate_start" ]
    return
  fi
  [ -n "$_hpcgate_apart" ] && kill -s 0 -- "-$6" 2>/dev/null && [ $((_hpcgate_now - $4)) -lt "$LEASE" ]
}
_hpcgate_report() {
  # $1 the receipt, and of whoever has made an attempt its token and how it has ended, which is written down
  # All but what the command has printed, which is in the file of which the name is in _hpcgate_out then.
  _hpcgate_out=
  _hpcgate_latest "$1"
  [ "$_hpcgate_number" -gt 0 ] || { _hpcgate_say none; return; }
  _hpcgate_at=$1/$_hpcgate_number
  { _hpcgate_plain "$_hpcgate_at" && IFS= read -r _hpcgate_line <"$_hpcgate_at"; } 2>/dev/null ||
    { _hpcgate_say swept; return; }
  _hpcgate_attempt=$_hpcgate_line
  case $_hpcgate_attempt in swept*) _hpcgate_say swept; return ;; esac
  _hpcgate_id= _hpcgate_status=- _hpcgate_memo=
  _hpcgate_plain "$_hpcgate_at.id" && { read -r _hpcgate_id <"$_hpcgate_at.id"; } 2>/dev/null
  _hpcgate_plain "$_hpcgate_at.memo" && { IFS= read -r _hpcgate_memo <"$_hpcgate_at.memo"; } 2>/dev/null
  # Looked at before how it ended: what has ended meanwhile is taken to run, and not the other way round.
  if _hpcgate_runs $_hpcgate_attempt; then _hpcgate_state=held; else _hpcgate_state=open; fi
  case $_hpcgate_attempt in
    "${2:--} "*)
      set -C
      { printf '%s\\n' "$3" >"$_hpcgate_at.end"; } 2>/dev/null
      set +C ;;
  esac
  # Without its line's end it was not all written, and counts for nothing.
  if _hpcgate_plain "$_hpcgate_at.end" && { read -r _hpcgate_line <"$_hpcgate_at.end"; } 2>/dev/null; then
    _hpcgate_status=$_hpcgate_line _hpcgate_state=ended
  fi
  printf '%s %s\\n%s\\n%s\\n%s\\n%s\\n%s\\n%s\\n' "$_hpcgate_header" "$_hpcgate_state" "$_hpcgate_number" \\
    "$_hpcgate_now" "$_hpcgate_attempt" "$_hpcgate_status" "$_hpcgate_id" "$_hpcgate_memo"
  ! _hpcgate_plain "$_hpcgate_at.out" || _hpcgate_out=$_hpcgate_at.out
}
_hpcgate_sweep() {
  # $1 minutes, $2 token
  _hpcgate_count=0 _hpcgate_last=0
  _hpcgate_plain swept && { read -r _hpcgate_last _hpcgate_count <swept; } 2>/dev/null
  # What is reckoned with has to be a number: bash does what else stands there.
  case $_hpcgate_last in '' | *[!0-9]*) _hpcgate_last=0 ;; esac
  case $_hpcgate_count in '' | *[!0-9]*) _hpcgate_count=0 ;; esac
  [ $((_hpcgate_now - _hpcgate_last)) -ge "$SWEEP_EVERY" ] || return 0
  for _hpcgate_old in $(find . ! -name . -prune -type d -name "$OURS" -mmin "+$1" 2>/dev/null); do
    [ -O "$_hpcgate_old" ] || continue
    _hpcgate_latest "$_hpcgate_old"
    _hpcgate_next=$_hpcgate_old/$((_hpcgate_number + 1))
    printf 'swept %s\\n' "$2" >"$_hpcgate_next.new.$2" || continue
    if ln -- "$_hpcgate_next.new.$2" "$_hpcgate_next" 2>/dev/null; then
      rm -f -- "$_hpcgate_next.new.$2"
      for _hpcgate_file in "$_hpcgate_old"/[0-9]* "$_hpcgate_old"/memo.*; do
        [ "$_hpcgate_file" = "$_hpcgate_next" ] || rm -f -- "$_hpcgate_file"
      done
      rm -f -- "$_hpcgate_next"
      rmdir -- "$_hpcgate_old" 2>/dev/null
    else
      rm -f -- "$_hpcgate_next.new.$2"
    fi
  done
  find . ! -name . -prune -type f -name "$OURS.memo.*" -mmin "+$1" -exec rm -f -- {} + 2>/dev/null
  set -- "$2" $OURS
  if [ -e "$2" ]; then _hpcgate_count=$(($# - 1)); else _hpcgate_count=0; fi
  {
    printf '%s %s\\n' "$_hpcgate_now" "$_hpcgate_count" >"swept.$1" && mv -f -- "swept.$1" swept
  } 2>/dev/null
}
_hpcgate_fail() { _hpcgate_say failed "$1"; exit 97; }
_hpcgate_attempt() {
  # In a subshell, which makes the attempt and becomes the scheduler's command.
  # $1 the attempt's file, $2 token, $3 mark and digest, $4 what was seen, $5 the memo's file, and the command
  trap '' HUP INT TERM PIPE
  trap - EXIT
  { read -r _hpcgate_line </proc/self/stat; } 2>/dev/null
  _hpcgate_at=$1 _hpcgate_token=$2 _hpcgate_claim=$3 _hpcgate_seen=$4 _hpcgate_memo=$5
  _hpcgate_pid=${_hpcgate_line%% *}
  shift 5
  _hpcgate_begun() { shift 19; _hpcgate_start=$1; }
  _hpcgate_begun ${_hpcgate_line##*) }
  _hpcgate_claim="$_hpcgate_token $_hpcgate_claim $_hpcgate_now $_hpcgate_machine $_hpcgate_pid $_hpcgate_start"
  umask 077
  _hpcgate_write "$_hpcgate_at.new.$_hpcgate_token" "$_hpcgate_claim" || {
    # Not every shell says why it cannot write; cat does.
    _hpcgate_said=$( { printf '%s\\n' "$_hpcgate_claim" | cat >"$_hpcgate_at.new.$_hpcgate_token"; } 2>&1 )
    rm -f -- "$_hpcgate_at.new.$_hpcgate_token"
    _hpcgate_fail "${_hpcgate_said:-No space left on device}"
  }
  LC_ALL=C ln -- "$_hpcgate_at.new.$_hpcgate_token" "$_hpcgate_at" 2>/dev/null
  _hpcgate_back=
  { IFS= read -r _hpcgate_back <"$_hpcgate_at"; } 2>/dev/null
  if [ -z "$_hpcgate_back" ]; then
    _hpcgate_said=$(ln -- "$_hpcgate_at.new.$_hpcgate_token" "$_hpcgate_at" 2>&1)
    { IFS= read -r _hpcgate_back <"$_hpcgate_at"; } 2>/dev/null
  fi
  if [ "$_hpcgate_back" != "$_hpcgate_claim" ]; then
    [ -n "$_hpcgate_back" ] && exit 98
    _hpcgate_fail "${_hpcgate_said:-the attempt cannot be read}"
  fi
  if [ -n "$_hpcgate_seen" ]; then
    # What was seen before has been swept meanwhile: somebody may have begun anew.
    _hpcgate_back=
    { read -r _hpcgate_back _hpcgate_line <"${_hpcgate_at%/*}/${_hpcgate_seen%% *}"; } 2>/dev/null
    [ "$_hpcgate_back" = "${_hpcgate_seen#* }" ] || { rm -f -- "$_hpcgate_at"; exit 98; }
  fi
  if [ -n "$_hpcgate_memo" ]; then mv -f -- "$_hpcgate_memo" "$_hpcgate_at.memo" || exit 99; fi
  # What is there already was put there by somebody else.
  set -C
  { printf '' >"$_hpcgate_at.out"; } 2>/dev/null || _hpcgate_fail "$_hpcgate_at.out: cannot be made"
  set +C
  exec >>"$_hpcgate_at.out" 2>&1
  umask "$_hpcgate_umask"
  unset _hpcgate_line
  case $1 in
    _hpcgate_*) "$@" ;;
    *) exec ${_hpcgate_apart:+"$_hpcgate_apart"} "$@" ;;
  esac
  exit
}
_hpcgate_ended() {
  # $1 the receipt, $2 the attempt's file, $3 token, $4 how it ended
  if [ "$4" -eq 97 ]; then
    # The attempt may have said itself why there is none.
    _hpcgate_holder "$2"
    [ "$_hpcgate_held" = "$3" ] || { _hpcgate_out=; return 0; }
  fi
  umask 077
  _hpcgate_report "$1" "$3" "$4"
  umask "$_hpcgate_umask"
}
"""
"""Of a directory of receipts, for scripts that stand in it after `_hpcgate_enter`.

Nothing here starts a process where the shell can do it itself: many receipts may be made by one script.
"""

_SCRIPT = (
    _BEGIN
    + """
exec 2>&1
trap '' HUP INT TERM PIPE
"""
    + _FUNCTIONS
    + """
_hpcgate_mode=$1 _hpcgate_header=$2 _hpcgate_name=$4 _hpcgate_seen=$5 _hpcgate_token=$6 _hpcgate_claim=$7
_hpcgate_answer() { _hpcgate_say "$1" "$2"; exit 0; }
_hpcgate_tell() { _hpcgate_report "$_hpcgate_name"; _hpcgate_show; }
_hpcgate_show() {
  if [ -n "$_hpcgate_out" ]; then { dd bs=262144 count=1 <"$_hpcgate_out"; } 2>/dev/null; fi
  exit 0
}
case $_hpcgate_mode in claim) _hpcgate_made=yes ;; *) _hpcgate_made= ;; esac
_hpcgate_enter "$3" "$_hpcgate_made" && _hpcgate_real "$_hpcgate_name" || {
  [ -n "$_hpcgate_refused" ] || _hpcgate_answer none
  _hpcgate_answer failed "$_hpcgate_refused"
}
umask 077
shift 7
case $_hpcgate_mode in
  look) _hpcgate_tell ;;
  settle)
    _hpcgate_holder "$_hpcgate_name/$1"
    [ "$_hpcgate_held" = "$_hpcgate_token" ] || _hpcgate_tell
    _hpcgate_at=$_hpcgate_name/$1
    _hpcgate_write "$_hpcgate_at.id.$_hpcgate_header" "$2" &&
      mv -f -- "$_hpcgate_at.id.$_hpcgate_header" "$_hpcgate_at.id"
    _hpcgate_tell ;;
esac
_hpcgate_memo=
if [ "$3" -gt 0 ]; then
  _hpcgate_memo=$_hpcgate_name.memo.$_hpcgate_token
  dd bs="$3" count=1 >"$_hpcgate_memo" 2>/dev/null
  # Its last byte ends a line.
  { read -r _hpcgate_line <"$_hpcgate_memo"; } 2>/dev/null || {
    rm -f -- "$_hpcgate_memo"
    _hpcgate_answer failed "No space left on device"
  }
fi
_hpcgate_sweep "$1" "$_hpcgate_token"
_hpcgate_most=$2
shift 3
_hpcgate_latest "$_hpcgate_name"
_hpcgate_holder "$_hpcgate_name/$_hpcgate_number"
case "$_hpcgate_number $_hpcgate_held" in
  "0 " | "$_hpcgate_seen") ;;
  *) [ -z "$_hpcgate_memo" ] || rm -f -- "$_hpcgate_memo"; _hpcgate_tell ;;
esac
if [ "$_hpcgate_number" -eq 0 ]; then
  _hpcgate_seen=
  if [ "$_hpcgate_count" -ge "$_hpcgate_most" ]; then
    [ -z "$_hpcgate_memo" ] || rm -f -- "$_hpcgate_memo"
    _hpcgate_answer full "$_hpcgate_count"
  fi
fi
_hpcgate_said=$(mkdir -p -- "$_hpcgate_name" 2>&1) || _hpcgate_answer failed "$_hpcgate_said"
if [ -n "$_hpcgate_memo" ]; then
  mv -f -- "$_hpcgate_memo" "$_hpcgate_name/memo.$_hpcgate_token" || _hpcgate_answer failed "No space left on device"
  _hpcgate_memo=$_hpcgate_name/memo.$_hpcgate_token
fi
_hpcgate_at=$_hpcgate_name/$((_hpcgate_number + 1))
( _hpcgate_attempt "$_hpcgate_at" "$_hpcgate_token" "$_hpcgate_claim" "$_hpcgate_seen" "$_hpcgate_memo" "$@" )
_hpcgate_status=$?
rm -f -- "$_hpcgate_at.new.$_hpcgate_token"
_hpcgate_tick
_hpcgate_ended "$_hpcgate_name" "$_hpcgate_at" "$_hpcgate_token" "$_hpcgate_status"
_hpcgate_show
"""
)

_MANY = """
_hpcgate_receipts() {
  # $1 directory, $2 minutes, $3 most receipts, $4 token of this run's own, and the receipts' names
  _hpcgate_minutes=$2 _hpcgate_most_receipts=$3 _hpcgate_left=all
  _hpcgate_enter "$1" yes >/dev/null || return 0
  _hpcgate_sweep "$2" "$4"
  shift 4
  _hpcgate_names=$*
}
_hpcgate_lines() {
  # $1 where in the program this stands
  [ -z "$_hpcgate_refused" ] || return 0
  if [ -n "$_hpcgate_perl" ] && command -v perl >/dev/null 2>&1; then _hpcgate_keep "$1"; fi
  _hpcgate_room=$((_hpcgate_most_receipts - _hpcgate_count)) _hpcgate_full=
  set --
  for _hpcgate_name in $_hpcgate_names; do
    if [ -d "$_hpcgate_name" ] || [ -h "$_hpcgate_name" ]; then continue; fi
    [ "$_hpcgate_room" -gt 0 ] || { _hpcgate_full=yes; continue; }
    set -- "$@" "$_hpcgate_name"
    _hpcgate_room=$((_hpcgate_room - 1))
  done
  # Of one that cannot be made the reason is found out when it is its turn.
  [ "$#" -eq 0 ] || (umask 077; mkdir -- "$@" 2>/dev/null)
}
_hpcgate_keep() {
  # Has perl keep what it can, and leaves the others in _hpcgate_left.
  set -- "$1" "$_hpcgate_place" "$_hpcgate_word" "$_hpcgate_most" "$((_hpcgate_most_receipts - _hpcgate_count))" \\
    "$_hpcgate_machine"
  # What users have perl do is for their jobs.
  for _hpcgate_name in $PERL_OWN; do
    eval "[ -z \\"\\${$_hpcgate_name+set}\\" ] || set -- \\"\\$@\\" \\"$_hpcgate_name=\\$$_hpcgate_name\\""
  done
  (
    unset $PERL_OWN
    for _hpcgate_name in $_hpcgate_given; do export "_hpcgate_$_hpcgate_name"; done
    exec perl -e "$_hpcgate_perl" -- "$@"
  ) 2>/dev/null &
  _hpcgate_keeper=$!
  wait "$_hpcgate_keeper"
  _hpcgate_status=$? _hpcgate_keeper=
  case $_hpcgate_status in
    0) _hpcgate_end 0 ;;
    $DEAF) _hpcgate_end 1 ;;
    $UNABLE) return ;;
    $SOME_LEFT) IFS= read -r _hpcgate_left <"$_hpcgate_place/rest" ;;
  esac
  # Not counted are those that it has made.
  set -- $OURS
  if [ -e "$1" ]; then _hpcgate_count=$#; else _hpcgate_count=0; fi
}
_hpcgate_told() {
  # What becomes of number $1 is told without its having begun anything.
  _hpcgate_report "$2" >>"$_hpcgate_place/o$1"
  _hpcgate_over "$1" 0 "$_hpcgate_out"
}
_hpcgate_once() {
  # $1 the number of its input, $2 header, $3 name, $4 token, $5 mark and digest, and the command
  case $_hpcgate_left in
    all | *" $((_hpcgate_n + 1)) "*) ;;
    *) _hpcgate_n=$((_hpcgate_n + 1)); return ;;
  esac
  _hpcgate_new
  _hpcgate_in=$_hpcgate_place/b$1 _hpcgate_header=$2 _hpcgate_name=$3 _hpcgate_token=$4 _hpcgate_claim=$5
  shift 5
  _hpcgate_why=$_hpcgate_refused
  if [ -z "$_hpcgate_why" ]; then
    _hpcgate_real "$_hpcgate_name" || { _hpcgate_why=$_hpcgate_refused; _hpcgate_refused=; }
  fi
  if [ -z "$_hpcgate_why" ]; then
    _hpcgate_latest "$_hpcgate_name"
    if [ "$_hpcgate_number" -gt 0 ]; then
      _hpcgate_told "$_hpcgate_n" "$_hpcgate_name"
      return
    fi
    if [ ! -d "$_hpcgate_name" ]; then
      if [ -n "$_hpcgate_full" ]; then
        _hpcgate_say full "$_hpcgate_most_receipts" >>"$_hpcgate_place/o$_hpcgate_n"
        _hpcgate_over "$_hpcgate_n" 0 ""
        return
      fi
      _hpcgate_why=$(umask 077; mkdir -p -- "$_hpcgate_name" 2>&1)
      [ ! -d "$_hpcgate_name" ] || _hpcgate_why=
    fi
  fi
  if [ -n "$_hpcgate_why" ]; then
    _hpcgate_say failed "$_hpcgate_why" >>"$_hpcgate_place/o$_hpcgate_n"
    _hpcgate_over "$_hpcgate_n" 0 ""
    return
  fi
  _hpcgate_tick
  { _hpcgate_attempt "$_hpcgate_name/1" "$_hpcgate_token" "$_hpcgate_claim" "" "" "$@"; } \\
    <"$_hpcgate_in" >>"$_hpcgate_place/o$_hpcgate_n" 2>&1 &
  eval "_hpcgate_then_$_hpcgate_n='_hpcgate_kept $_hpcgate_header $_hpcgate_name $_hpcgate_token'"
  _hpcgate_await "$!"
}
_hpcgate_kept() {
  # $1 header, $2 name, $3 token, $4 the number, $5 how it ended
  _hpcgate_header=$1
  _hpcgate_tick
  _hpcgate_spare="$_hpcgate_spare $2/1.new.$3"
  _hpcgate_ended "$2" "$2/1" "$3" "$5" >>"$_hpcgate_place/o$4"
  _hpcgate_more=$_hpcgate_out
}
"""


def _written(text: str) -> str:
    """Return a script with its constants in place."""
    text = text.replace('"$LEASE"', str(LEASE)).replace('"$SWEEP_EVERY"', str(SWEEP_EVERY))
    for name, value in (("DEAF", keeper.DEAF), ("UNABLE", keeper.UNABLE), ("SOME_LEFT", keeper.SOME_LEFT)):
        text = text.replace(f"${name}", str(value))
    text = text.replace("$PERL_OWN", "PERL5OPT PERL5LIB PERLLIB PERL5DB")
    ours = "[0-9a-f]" * 32
    return text.replace('"$OURS.memo.*"', f"'{ours}.memo.*'").replace('"$OURS"', f"'{ours}'").replace("$OURS", ours)


SCRIPT: Final = _written(_SCRIPT)
MANY: Final = _written(f"{KEEPING_FUNCTIONS}{_TOOLS}{_FUNCTIONS}{_MANY}")
"""Lines for `hpcgate.schedulers.many`, by which its one shell keeps the receipts of many submissions."""
