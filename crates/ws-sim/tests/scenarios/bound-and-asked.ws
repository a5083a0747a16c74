# What ends with a run that is replaced is not there for what starts in the same moment.
task seed
service db
  after seed completed restart
task admin
  after db ready
at 0s up
at 5s up seed admin
at 10s settled
