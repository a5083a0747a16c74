# A task that fails has failed those that wait until it completed; asked for again it runs again.
task migrate
  host life=2s
service api
  after migrate completed
service aside
at 0s up
at 1s exit migrate 2
at 3s up api
at 6s settled
