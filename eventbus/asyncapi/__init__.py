"""What a bus is to others, as an AsyncAPI 3.1.0 document; needs neither broker nor database."""

from eventbus.asyncapi.document import document_of
from eventbus.asyncapi.structure import Problem, problems_of

__all__ = ["Problem", "document_of", "problems_of"]
