from tests.variants import compiled_quickly  # noqa: F401
