ROOT_URLCONF = "mysite.urls"
SECRET_KEY = "only for tests"
ALLOWED_HOSTS = ["*"]
