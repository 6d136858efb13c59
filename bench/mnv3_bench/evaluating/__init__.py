"""What networks make of labelled images, on every backend: top-1 and how it differs from fp32."""
