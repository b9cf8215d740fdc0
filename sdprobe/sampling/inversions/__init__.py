"""The methods of inversion: what each does from picture to noise, and what it needs on the way back."""
