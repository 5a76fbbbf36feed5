"""The program around `jaxsep.training`: data, devices, files, the loop. Run from the checkout: `python -m train`."""
