-- Nothing: how long the way there and back takes, and what the clock says in between.
SELECT clock_timestamp() AS now
