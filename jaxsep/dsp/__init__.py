"""Signal processing without parameters: transforms, masks, overlap-add, the Wiener filter."""
