"""What one would write in Darkroom's place: diffusers' modules behind two other servers."""
