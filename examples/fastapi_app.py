"""``uvicorn fastapi_app:app``, with PGHOST and PGUSER set, as for psql."""

import os

import psycopg_pool
import requests
from fastapi import FastAPI
from starlette.responses import StreamingResponse

import iowq.asgi
from iowq.starlette import iterate, runs_on

DATABASE = "dbname=postgres options='-c client_connection_check_interval=1000'"

wq = iowq.WorkQueue(concurrency=256)
pool = psycopg_pool.ConnectionPool(DATABASE, max_size=20, open=True)

app = FastAPI()
app.add_middleware(iowq.asgi.Middleware, timeout=float(os.environ.get("LIMIT", "30")))


@app.get("/report")
@runs_on(wq)
def report(seconds: float, title: str) -> str:
    with pool.connection() as connection, iowq.on_cancel(connection.cancel):
        return connection.execute("SELECT %s, pg_sleep(%s)", [title, seconds]).fetchone()[0]


@app.get("/fetch")
@runs_on(wq.within(5))  # a limit of this endpoint
def fetch(url: str) -> str:
    return requests.get(url).text


@app.get("/stream")
async def stream(lines: int) -> StreamingResponse:
    def produce():
        with pool.connection() as connection:
            for number in range(lines):
                with iowq.on_cancel(connection.cancel):
                    connection.execute("SELECT pg_sleep(0.01)")
                yield f"{number}\n"

    return StreamingResponse(iterate(wq, produce()))
