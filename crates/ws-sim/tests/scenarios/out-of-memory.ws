# The kernel took it for its memory limit: that is said, and counts as a failure.
service api
at 0s up
at 2s exit api signal 9 oom
at 4s settled
