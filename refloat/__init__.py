"""Refloat: brings a protected VM back afloat on other virtual hardware, and can put everything back."""

__version__ = "0.1.0"
