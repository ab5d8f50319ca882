const escape = (text: string): string => text.replace(/[&<>"']/g, char => `&#${char.charCodeAt(0)};`)

/** A page whose form hands a token to the dashboard that sent the browser here. */
export const handOver = (origin: string, token: string): string => `<!DOCTYPE html>
<html><head><title>Web single sign-on</title></head>
<body><form id="sso" name="sso" action="${escape(origin)}" method="post">
Please wait...<br>
<input type="hidden" name="token" id="token" value="${escape(token)}">
<noscript><input type="submit" name="submit_no_javascript" id="submit_no_javascript" value="If your JavaScript is disabled, please click to continue"></noscript>
</form><script>window.onload = function () { document.forms['sso'].submit() }</script></body></html>`
