# A command in the place of a service: what it needs comes first, and it goes when it has ended.
service db
  ready
  host pace=500ms
service api
  after db ready
  host life=2s
at 0s run api
at 5s settled
