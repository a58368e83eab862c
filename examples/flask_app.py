"""``gunicorn --worker-class iowq.gunicorn.Worker flask_app:app``, with PGHOST and PGUSER set."""

import psycopg
import psycopg_pool
import requests
from flask import Flask, request

import iowq

DATABASE = "dbname=postgres options='-c client_connection_check_interval=1000'"

pool = psycopg_pool.ConnectionPool(DATABASE, max_size=20, open=True)
app = Flask(__name__)


@app.get("/report")
def report():
    values = [request.args["title"], request.args["seconds"]]
    with pool.connection() as connection, iowq.on_cancel(connection.cancel):
        return connection.execute("SELECT %s, pg_sleep(%s)", values).fetchone()[0]


@app.errorhandler(psycopg.errors.QueryCanceled)
def out_of_time(_error):
    return "Gateway Timeout", 504


@app.get("/fetch")
def fetch():
    return requests.get(request.args["url"]).text
