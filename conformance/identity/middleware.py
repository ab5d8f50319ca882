"""keystonemiddleware in front of a WSGI application that tells what the middleware tells it.

The first line of standard input says which middleware, with which options. Each further line is a request to send through it;
what came of it is printed as a line.
"""

import json
import sys

from keystonemiddleware import auth_token
from keystonemiddleware import oauth2_token
from oslo_config import cfg
import webob

MIDDLEWARE = {'auth_token': auth_token.AuthProtocol, 'oauth2_token': oauth2_token.OAuth2Protocol}


def application(environ, start_response):
    start_response('200 OK', [('Content-Type', 'application/json')])
    told = {name: value for name, value in environ.items() if name.startswith(('HTTP_X_', 'HTTP_OPENSTACK_'))}
    return [json.dumps(told).encode()]


def middleware(setup):
    conf = cfg.ConfigOpts()
    conf([], project='test', default_config_files=[])
    return MIDDLEWARE[setup['middleware']](application, {**setup['options'], 'oslo_config_config': conf})


def answer(app, one):
    request = webob.Request.blank(one['path'], method=one.get('method', 'GET'), headers=one.get('headers', {}))
    response = request.get_response(app)
    told = json.loads(response.body) if response.status_int == 200 else {}
    return {'status': response.status_int, 'told': told}


setup = json.loads(sys.stdin.readline())
app = middleware(setup)
for line in sys.stdin:
    print(json.dumps(answer(app, json.loads(line))), flush=True)
