"""Where the views are."""

from __future__ import annotations

from django.urls import path

from box_office import views

urlpatterns = [
    path("orders", views.post_order),
    path("orders/<int:number>", views.get_order),
    path("orders/<int:number>/call", views.post_call),
]
