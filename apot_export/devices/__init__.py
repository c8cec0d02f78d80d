"""What devices without Python run: C projects, memory images and golden vectors of exports."""
