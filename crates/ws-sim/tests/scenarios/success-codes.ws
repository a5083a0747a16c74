# A code that the file calls a success is one: for a task, and for the policy of a service.
task report
  success 3
  restart no
service api
  success 143
at 0s up
at 500ms exit report 3
at 1s exit api signal 15
at 2s settled
