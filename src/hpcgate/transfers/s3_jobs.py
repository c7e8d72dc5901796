"""The jobs that stand between S3 and the file system: POSIX sh and curl, nothing else.

No URL is on a command line, where ps would show its signature: curl reads each from a file descriptor of its own.
"""

from hpcgate.ssh.commands.temporary import SAFE
from hpcgate.ssh.files.command_scripts import ADOPT
from hpcgate.transfers.script import STAGE

# A request is tried again with pauses of 1, 2, 4 and 8 seconds. A request that stalls for a minute has failed.
_COMMON = (
    SAFE
    + """
command -v curl >/dev/null || fail 'curl: command not found' 127
ask() {
  url=$1
  shift
  curl -q --config /dev/fd/3 --silent --show-error --globoff --connect-timeout 20 --speed-limit 1 --speed-time 60 \\
    "$@" 3<<END_OF_URL
url = "$url"
END_OF_URL
}
field() { tr -d '\\r' <"$2" | sed -n "s/^$1: *\\"\\{0,1\\}\\([^\\"]*\\)\\"\\{0,1\\} *\\$/\\1/p" | tail -n 1; }
length() { field '[Cc]ontent-[Ll]ength' "$1"; }
etag() { field '[Ee][Tt][Aa][Gg]' "$1"; }
bytes_of() {
  count=$((size - $1 * part_size))
  if [ "$count" -gt "$part_size" ]; then count=$part_size; fi
}
again() {
  pause=1
  until "$@"; do
    if [ "$pause" -gt 8 ] || [ -e "$scratch/failed" ]; then return 1; fi
    sleep "$pause"
    pause=$((pause * 2))
  done
}
scratch= workers=
# What is under way may still make files there, and would do so while they are removed.
drop_scratch() {
  [ -z "$workers" ] || kill $workers 2>/dev/null
  if [ -n "$scratch" ]; then
    mv -T -- "$scratch" "$scratch.gone" && scratch=$scratch.gone
    rm -rf -- "$scratch"
  fi
}
all_parts() {
  workers=
  number=0
  while [ "$number" -lt "$parallel" ] && [ "$number" -lt "$parts" ]; do
    worker "$number" &
    workers="$workers $!"
    number=$((number + 1))
  done
  broken=0
  for each in $workers; do wait "$each" || broken=1; done
  return "$broken"
}
"""
)

# An entity tag is the MD5 of the content, or that of the parts' MD5s followed by their number.
VERIFY = """\
digest_of_digests() {
  number=0
  while [ "$number" -lt "$parts" ]; do
    printf '%b' "$(printf '\\\\0%03o' $(sed 's/../0x& /g' "$scratch/md5.$number"))"
    number=$((number + 1))
  done | md5sum | cut -c 1-32
}
verify() {
  case $1 in
    *[!0-9a-f-]*|'') return 0 ;;
    *-"$parts") found=$(digest_of_digests)-$parts ;;
    *-*) return 0 ;;
    *) [ "${#1}" -eq 32 ] || return 0; found=$(md5sum <"$2" | cut -c 1-32) ;;
  esac
  [ "$found" = "$1" ]
}
"""

INGRESS = f"""\
{ADOPT}
{_COMMON}
{VERIFY}
{STAGE}
status_of() {{ ask "$@" --output /dev/null --write-out '%{{http_code}}' --max-time 60; }}
fetch() {{
  bytes_of "$1"
  from=$(($1 * part_size))
  # Not every store answers a range with 206, but all say which one it is.
  if [ "$parts" -gt 1 ]; then range=$from-$((from + count - 1)); else range=; fi
  {{
    {{
      ask "$get_url" --fail --dump-header "$scratch/head.$1" ${{range:+--range "$range"}}
      echo $? >"$scratch/status.$1"
    }} | tee /dev/fd/4 | md5sum | cut -c 1-32 >"$scratch/md5.$1"
  }} 4>&1 |
    dd of=./new bs=1M iflag=fullblock oflag=seek_bytes seek="$from" conv=notrunc,nocreat status=none || {{
    touch "$scratch/failed"
    return 1
  }}
  [ "$(cat "$scratch/status.$1")" -eq 0 ] && [ "$(length "$scratch/head.$1")" = "$count" ] &&
    [ "$(field '[Cc]ontent-[Rr]ange' "$scratch/head.$1")" = "${{range:+bytes $range/$size}}" ]
}}
worker() {{
  part=$1
  while [ "$part" -lt "$parts" ]; do
    again fetch "$part" || {{ touch "$scratch/failed"; return 1; }}
    part=$((part + parallel))
  done
}}
arrived=
clear_up() {{
  drop_scratch
  unstage
  # Both, as the user may complete the upload between the last look for it and its end.
  if [ -z "$arrived" ]; then status_of "$abort_url" --request DELETE >/dev/null 2>&1; fi
  status_of "$delete_url" --request DELETE >/dev/null 2>&1
}}
settle "$target"
if [ -d "./$base" ]; then fail "$target: Is a directory"; fi
scratch=$(mktemp -d -p "$(_hpcgate_temporary)") || exit
deadline=$(($(date +%s) + wait))
gone=0
until [ "$(status_of "$head_url" --head)" = 200 ]; do
  # Given up by the user, or by the gateway: several times, as a store may take a moment to show a new object.
  if [ "$(status_of "$list_url")" = 404 ]; then gone=$((gone + 1)); else gone=0; fi
  if [ "$gone" -ge 3 ]; then fail 'The upload was given up.'; fi
  if [ "$(date +%s)" -ge "$deadline" ]; then fail "The file was not uploaded within $wait seconds."; fi
  sleep "$poll"
done
arrived=yes
ask "$head_url" --head >"$scratch/object" || fail 'The object store does not answer.'
if [ "$(length "$scratch/object")" != "$size" ]; then
  fail "The uploaded file has $(length "$scratch/object") bytes, not $size."
fi
stage
: >./new || exit
all_parts || fail 'The file could not be fetched from the object store.'
if [ "$(stat -c %s -- ./new)" != "$size" ]; then fail 'The file came short from the object store.'; fi
if [ -n "$check" ] && ! verify "$(etag "$scratch/object")" ./new; then
  fail 'The file does not have the checksum that the object store states.'
fi
if [ -e "../$base" ]; then adopt "../$base" ./new || exit; fi
mv -f -T -- ./new "../$base" || exit
echo 'File was successfully transferred.'
"""
"""Waits for an object and makes it a file; takes the object away whatever comes of it."""

EGRESS = f"""\
{_COMMON}
part_of_source() {{
  dd if="$source" bs=1M iflag=skip_bytes,count_bytes,fullblock skip="$(($1 * part_size))" count="$count" status=none
}}
put() {{
  ask "$part_url&partNumber=$(($1 + 1))&X-Amz-Signature=$2" --fail --output /dev/null \\
    --dump-header "$scratch/head.$1" --header 'Expect:' --upload-file "$3" --header "Content-Length: $count" \\
    --header 'Transfer-Encoding:'
}}
send() {{
  bytes_of "$1"
  if [ -n "$split" ]; then
    part_of_source "$1" >"$scratch/part.$1" || {{ touch "$scratch/failed"; return 1; }}
    md5sum <"$scratch/part.$1" | cut -c 1-32 >"$scratch/md5.$1"
    put "$1" "$2" "$scratch/part.$1"
    sent=$?
    rm -f -- "$scratch/part.$1"
  else
    {{ part_of_source "$1" | tee /dev/fd/4 | md5sum | cut -c 1-32 >"$scratch/md5.$1"; }} 4>&1 | put "$1" "$2" -
    sent=$?
  fi
  if [ "$sent" -ne 0 ]; then return 1; fi
  if [ -n "$check" ] && [ "$(etag "$scratch/head.$1")" != "$(cat "$scratch/md5.$1")" ]; then
    echo "Part $(($1 + 1)) arrived with a wrong checksum." >&2
    return 1
  fi
}}
worker() {{
  part=$1
  set -- $signatures
  shift "$part"
  while :; do
    again send "$part" "$1" || {{ touch "$scratch/failed"; return 1; }}
    part=$((part + parallel))
    if [ "$part" -ge "$parts" ]; then return; fi
    shift "$parallel"
  done
}}
complete() {{
  ask "$complete_url" --fail --request POST --header 'Content-Type: application/xml' \\
    --data-binary "@$scratch/list" --output "$scratch/answer" &&
    grep -q CompleteMultipartUploadResult "$scratch/answer" && ! grep -q '<Error>' "$scratch/answer"
}}
measure() {{ stat -L -c '%s %.9Y %i' -- "$source"; }}
completed=
clear_up() {{
  drop_scratch
  if [ -z "$completed" ]; then ask "$abort_url" -X DELETE --max-time 60 >/dev/null 2>&1; fi
}}
if [ -n "$split" ]; then
  mkdir -p -- "$tmp_folder" || exit
  scratch=$(mktemp -d -- "$tmp_folder/.hpcgate-XXXXXXXX") || exit
else
  scratch=$(mktemp -d -p "$(_hpcgate_temporary)") || exit
fi
: <"$source" || exit
before=$(measure) || exit
if [ "${{before%% *}}" != "$size" ]; then fail "$source: the file has changed its size since the request"; fi
all_parts || fail 'The file could not be sent to the object store.'
if [ "$(measure)" != "$before" ]; then fail "$source: the file changed while it was read"; fi
{{
  echo '<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
  number=0
  while [ "$number" -lt "$parts" ]; do
    echo "<Part><PartNumber>$((number + 1))</PartNumber><ETag>\\"$(etag "$scratch/head.$number")\\"</ETag></Part>"
    number=$((number + 1))
  done
  echo '</CompleteMultipartUpload>'
}} >"$scratch/list" || exit
again complete || echo 'The object store did not confirm the file.' >&2
ask "$head_url" --head --fail >"$scratch/object" || fail 'The object store does not have the file.'
if [ "$(length "$scratch/object")" != "$size" ]; then fail 'The object store has a part of the file only.'; fi
completed=yes
echo 'Multipart file upload successfully completed.'
"""
"""Sends a file to the store in parts; takes away what it could not complete."""
