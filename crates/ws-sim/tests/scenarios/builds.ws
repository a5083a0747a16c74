# A build waits only for what must be completed; then its program waits for the rest.
task generate
service db
  ready
  host pace=3s
service api
  build
  after generate completed
  after db ready
at 0s up
at 6s settled
