"""The parts of the report, a section a module, and what they are made of.

`markup` makes elements and `charts` plots; the other modules are sections. They
return elements, never text, so that whatever a run's files hold, the name of a
class for example, is escaped in one place.
"""
