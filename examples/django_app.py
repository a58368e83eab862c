"""``uvicorn django_app:application``, with PGHOST and PGUSER set, as for psql."""

import os

import requests
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.db import connection
from django.db.backends.signals import connection_created
from django.http import HttpResponse
from django.urls import path

import iowq.django

DATABASE = {
    "ENGINE": "django.db.backends.postgresql",
    "NAME": "postgres",
    "OPTIONS": {
        "options": "-c client_connection_check_interval=1000",
        "pool": {"max_size": 20},
    },
}
settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, DATABASES={"default": DATABASE})


def report(request):
    with connection.cursor() as cursor:
        values = [request.GET["title"], request.GET["seconds"]]
        cursor.execute("SELECT %s, pg_sleep(%s)", values)
        return HttpResponse(cursor.fetchone()[0])


def fetch(request):
    return HttpResponse(requests.get(request.GET["url"]).text)


urlpatterns = [path("report", report), path("fetch", fetch)]

connection_created.connect(iowq.django.end_queries)
limit = float(os.environ.get("LIMIT", "30"))
application = iowq.django.Middleware(get_asgi_application(), timeout=limit)
