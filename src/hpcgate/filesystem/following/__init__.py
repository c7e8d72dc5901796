"""Files that somebody follows: one reader a file and user, however many follow it (docs/decisions/following.md).

A reader looks at the end of its file for as long as a follower has come that far: about four times a second while the
file grows, less and less often while it rests, and never for more than an eighth of the time. A follower takes what it
has not had yet from what the reader remembers, or else from the file itself, at its own pace: nothing waits in a queue
for a slow one, and none holds another up.
"""
