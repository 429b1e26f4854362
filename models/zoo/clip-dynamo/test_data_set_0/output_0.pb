Blogits_per_imageJ$Ei
>ร8>hาพEบA?S2?Cศ๎พq์2?”ฒ(?Eพ