"""A web service and a worker on one PostgreSQL: an order and its event in one commit.

To run it, with PostgreSQL and `pip install 'eventbus[cli,postgres,sqlalchemy]' fastapi uvicorn`:

    export SHOP_DATABASE=postgresql://postgres@127.0.0.1/shop
    eventbus db upgrade --storage $SHOP_DATABASE --yes
    python -m examples.postgres_service.tables
    uvicorn examples.postgres_service.web:app &          # as many as you like
    eventbus run examples.postgres_service.worker:bus &  # these too: they share the work
    curl -d '{"order_id": "A-1", "item": "tea", "cents": 4200}' \
         -H 'content-type: application/json' localhost:8000/orders
"""
