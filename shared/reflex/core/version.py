"""The version of the three distributions. This line is the only place of it: their manifests read it from here."""

__all__ = ["VERSION"]

VERSION = "0.1.0"
