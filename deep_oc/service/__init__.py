"""A model behind HTTP, for `deep_oc.serve`.

  app.py       the routes: POST /score, /health, /metrics, the page
  uploads.py   the pictures of a request's body, while it arrives
  decoding.py  what the model sees of them, at a bounded cost
  worker.py    the thread in which the model runs, on batches
  answers.py   the JSON
  edge.py      what all requests go through; measures.py, what is counted
  limits.py    how much a request may be; server.py, from start to SIGTERM

A request to score that found a place in the queue is always answered: with
scores, with what is wrong with it, or with 504 when time is up. Where there is
no place, the answer is 503 and says when to ask again.
"""
