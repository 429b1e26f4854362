Blogits_per_imageJ$Li
>ฒ8>hาพEบA?R2?7ศ๎พq์2?’ฒ(??พ